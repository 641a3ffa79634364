"""The cosine head and the masks of padded codebook rows."""

import pytest
import torch

from e0.heads import cosine_basis, cosine_logits, head_width, padding_bias


def test_cosine_basis_is_the_orthogonal_cosine_transform() -> None:
    basis = cosine_basis(torch.tensor([16]), 16)[0].double()
    frequency = torch.arange(1, 17).double()
    gram = basis @ basis.T / 4 * (frequency[:, None] * frequency).sqrt()
    # Over n = 16 ranks the cosines 1..15 are orthogonal with norm n/2, and the 16th is zero.
    expected = torch.diag(torch.tensor([8.0] * 15 + [0.0], dtype=torch.float64))
    torch.testing.assert_close(gram, expected, atol=1e-5, rtol=0)


def test_cosine_basis_follows_each_dimensions_own_number_of_codes() -> None:
    basis = cosine_basis(torch.tensor([2, 256]), 256)
    assert basis.shape == (2, 64, 256)
    assert not basis[0, :, 2:].any()
    # A gripper's two codes are told apart by the lowest frequency alone.
    assert basis[0, 0, 0] > 1 and basis[0, 0, 1] < -1
    short = cosine_basis(torch.tensor([100]), 100)
    long = cosine_basis(torch.tensor([100]), 256)
    torch.testing.assert_close(long[:, :64, :100], short[:, :64])


def test_logits_equal_the_explicit_sum() -> None:
    generator = torch.Generator().manual_seed(0)
    coefficients = torch.randn(2, 3, 2, 64, generator=generator)
    basis = cosine_basis(torch.tensor([256, 40]), 256)
    bias = padding_bias(torch.tensor([256, 40]), 256)
    logits = cosine_logits(coefficients, basis, bias)
    expected = bias + sum(
        coefficients[..., k, None] * basis[None, None, :, k] for k in range(coefficients.shape[-1])
    )
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_logits_stay_float32_under_autocast() -> None:
    coefficients = torch.randn(1, 1, 1, 64)
    basis, bias = cosine_basis(torch.tensor([256]), 256), torch.zeros(1, 256)
    with torch.autocast("cpu", torch.bfloat16):
        logits = cosine_logits(coefficients.bfloat16(), basis, bias)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, cosine_logits(coefficients.bfloat16().float(), basis, bias))


@pytest.mark.parametrize("code", [0, 1, 100, 255])
def test_a_peak_can_become_as_narrow_as_one_code(code: int) -> None:
    """Logits are unbounded, so 64 cosines can single out each of 256 codes."""
    basis = cosine_basis(torch.tensor([256]), 256)
    coefficients = torch.zeros(1, 1, 1, 64, requires_grad=True)
    optimizer = torch.optim.Adam([coefficients], lr=1.0)
    for _ in range(1500):
        logits = cosine_logits(coefficients, basis, torch.zeros(1, 256)).view(1, 256)
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor([code]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert logits.softmax(-1)[0, code] > 0.95


def test_padding_gets_no_probability() -> None:
    bias = padding_bias(torch.tensor([2, 5]), 5)
    posterior = (torch.randn(3, 2, 5) + bias).softmax(-1)
    assert (posterior[:, 0, 2:] == 0).all()
    assert (posterior[:, 1] > 0).all()


def test_width_and_unknown_head() -> None:
    assert head_width("linear", 2048) == 2048
    assert head_width("cosine", 2048) == 64
    assert head_width("cosine", 16) == 16
    with pytest.raises(ValueError, match="unknown head 'softmax'; known: cosine, linear"):
        head_width("softmax", 16)
