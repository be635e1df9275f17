"""Configurations a fuzzer makes up, and the ones it found worth keeping.

Lives here: what is asked of them (`target`), the fuzzer (`python -m tests.fuzz`), and
the corpus, which the ordinary tests go through too.
"""
