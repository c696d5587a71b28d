"""Names of what lies beside the weights of a compressed model."""

MASKS = "masks.safetensors"
CODES = "quantized.safetensors"
