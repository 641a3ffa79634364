"""A simulated Franka with a cube to pick and two cameras, for trying the whole way from pictures to
Franka's protocol without an arm. It is no evidence about a real one."""
