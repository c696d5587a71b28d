"""Gradients, curvature and repeated measurements that sensitivities are estimated from."""
