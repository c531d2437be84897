"""What passes between the driver, its kernels and the machine: signals, leash, sessions, costs."""
