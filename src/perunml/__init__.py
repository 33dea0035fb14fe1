"""Perun: confidential machine learning between parties who do not trust each other."""
