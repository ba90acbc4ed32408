// Activations of the epilogue, in float32. NaN stays NaN.
DEVICE float relu(float x) { return x < 0.f ? 0.f : x; }
DEVICE float silu(float x) { return x / (1.f + expf(-x)); }
DEVICE float gelu(float x) { return 0.5f * x * erfcf(x * -0.70710678f); }  // from the tail on either side: nothing cancels
DEVICE float gelu_tanh(float x) {  // x / (1 + e^(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3)
  return x / (1.f + expf(x * (x * x * -0.0713548128f - 1.59576912f)));
}
