// Activations of the epilogue. Coefficients: Lawson-weighted least squares on cosine nodes; each activation is within 2^-21 * max(1, |x|).

// e^x. x = i ln2 + r, |r| <= ln2 / 2; e^r = 1 + r + r^2 P(r), P of degree 4 (fit error 3.1e-9 relative). i ln2 is subtracted in two
// parts, the first exact. 2^i is applied in two halves, so that overflow gives inf and underflow goes through the subnormals.
INLINE vf exp(vf x) {
  const vf magic = splat(0x1.8p23f);  // adding it rounds to an integer, which then sits in the low mantissa bits
  x = at_most(splat(90.f), at_least(splat(-105.f), x));
  const vf shifted = fma(x, splat(0x1.715476p+0f), magic);
  const vf i = shifted - magic;
  vf r = fma(i, splat(-0x1.62e400p-1f), x);
  r = fma(i, splat(-0x1.7f7d1cp-20f), r);
  vf p = splat(1.381443303e-03f);
  p = fma(p, r, splat(8.368796699e-03f));
  p = fma(p, r, splat(4.166839580e-02f));
  p = fma(p, r, splat(1.666651997e-01f));
  p = fma(p, r, splat(4.999999340e-01f));
  p = fma(p, r * r, r) + 1.f;
  const vi n = (vi)shifted - (vi)magic, half = n >> 1;
  return p * (vf)((half + 127) << 23) * (vf)((n - half + 127) << 23);
}

// Phi(-a), a >= 0, the standard normal's tail: exp(-a^2/2) * t Q(t), t = 1 / (1 + 0.3 a), Q of degree 7; 1.5e-7 relative on [0, 14].
INLINE vf normal_tail(vf a) {
  const vf t = 1.f / fma(a, splat(0.30f), splat(1.f));
  vf q = splat(3.567476992e-02f);
  q = fma(q, t, splat(-1.572030622e-01f));
  q = fma(q, t, splat(2.063534663e-01f));
  q = fma(q, t, splat(-5.368360374e-02f));
  q = fma(q, t, splat(1.285616039e-01f));
  q = fma(q, t, splat(9.991349913e-02f));
  q = fma(q, t, splat(1.207539549e-01f));
  q = fma(q, t, splat(1.196292989e-01f));
  return exp(a * a * -0.5f) * (q * t);
}

INLINE vf relu(vf x) { return at_least(vf{}, x); }  // NaN stays NaN
INLINE vf silu(vf x) { return x / (1.f + exp(-x)); }
INLINE vf gelu(vf x) {  // x Phi(x), Phi from the tail on either side, so that nothing cancels
  const vf tail = normal_tail(at_most(splat(16.f), abs(x)));  // Phi(-16) is zero in float32
  return x * select(x < 0.f, tail, 1.f - tail);
}
INLINE vf gelu_tanh(vf x) {  // x / (1 + e^(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3), by tanh(u) = 2 / (1 + e^(-2u)) - 1
  const vf minus_2u = x * fma(x * x, splat(-7.135481283e-02f), splat(-1.595769122f));
  return x / (1.f + exp(minus_2u));
}

