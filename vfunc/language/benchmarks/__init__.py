"""The field's benchmarks: questions as its evaluation harness asks them, and what answers count."""
