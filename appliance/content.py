"""Body octets without their content coding."""
