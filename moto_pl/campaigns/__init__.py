"""Campaigns: many runs of ``moto fit`` from one file, resumed as one.

``plan`` reads the file, ``check`` asks the real parser about every run, ``workers`` and ``clusters`` run them,
``progress`` reads how far a run's directory says it is, ``runner`` goes through them all, ``table`` shows them, and
``results`` keeps what came of them.
"""
