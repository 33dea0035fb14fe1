"""Views of an asset: a folder of files, `fsspec`, records and windows of records for training.

All of them read through a `Source`: a sealed asset that is opened here, or the plain folder that a job sees.
"""
