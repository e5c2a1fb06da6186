"""Runtime: starting, stopping and inspecting a profile's processes."""
