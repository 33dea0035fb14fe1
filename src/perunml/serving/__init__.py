"""Confidential inference: gateway, engines, receipts."""
