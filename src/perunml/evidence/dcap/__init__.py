"""Intel SGX (DCAP version 3) and TDX (versions 4 and 5): quotes, on dcap-qvl, under our policy."""
