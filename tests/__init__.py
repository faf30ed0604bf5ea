"""Tests: unit (no I/O), integration (real stores), crash (SIGKILL), e2e (HTTP and command line)."""
