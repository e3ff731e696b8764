"""Operations that are worth a file of their own: hand-written kernels beside the plain code that specifies them."""
