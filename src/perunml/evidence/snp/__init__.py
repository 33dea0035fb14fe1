"""AMD SEV-SNP: attestation reports (versions 2, 3 and 5) of Milan, Genoa and Turin."""
