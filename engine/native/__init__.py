"""Kernels in C++, built on the machine that runs them; see `engine.native.library`."""
