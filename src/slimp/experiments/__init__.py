"""Questions of the paper, and ours, as one command each: `slimp experiment NAME`."""
