"""Numeric bounds that several tests share, each with its reason.

A bound lies ten times or more above the worst error of any kernels (`make test-kernels`; MKL's kernels for Intel were
measured too), and far below what a fault gives. A bound of one test has its reason beside it.

The defaults of `torch.testing.assert_close` (float32: 1.3e-6 of the value and 1e-5; float64: 1e-7 and 1e-7) and of
`pytest.approx` (1e-6 of the value) stand without a reason: there a closed form meets a few operations, whose rounding
is 1e-7 or 1e-16.
"""

SUMS64 = 1e-12
"""Relative error of float64 sums and products of up to some thousand terms that do not cancel.

n roundings of 1e-16 add up like n^(1/2): 1e-14 for a few thousand terms; 3e-14 was the most. Float32 gives 1e-8.
"""
DISTANCE64 = 1e-11
"""Relative error of a Frechet distance that is not small beside the traces it is the difference of.

Rounding in the covariances is enlarged by (b / v)^(1/2) / 2, with v the smallest variance of one and b the variance of
the other in that direction: at most 1e3 in these tests, hence 2e-13. A direction too many in a singular covariance
gives 1e-10 to 1e-9.
"""
IMAGES32 = 3e-5
"""Absolute error of the images (in [-1, 1]) and logits (of size 1) of small float32 networks.

Rounding of 6e-8 grows over some twenty layers to 2e-6. A batch norm of another epsilon gives 1e-3.
"""
FEW_OPERATIONS32 = 1e-5
"""Absolute error of numbers of size 1 after a few float32 sums of up to some thousand terms: 1e-6 was the most."""
