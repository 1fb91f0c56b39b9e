"""Ahead-of-time builds: every kernel of every network compiled for a target, without a device.

`layers` adds programs with every layer and head to the networks, `plan` turns the launches of
compiled programs into distinct kernels to build, `describe` names them, `build` compiles them and
reads off registers, spills, shared memory and matrix instructions, `table` compares and writes the
results. ``python -m benchmarks.aot`` is the command line.
"""
