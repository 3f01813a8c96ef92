import pytest
import torch

from moto_pl.errors import SettingError
from moto_pl.nn import RSSM
from moto_pl.ops import Key, LatentSpec, draw_noise
from moto_pl.ops import observe as observe_op
from moto_pl.ops import priors as priors_op
from moto_pl.ops.extension import available

LATENTS = [LatentSpec("categorical", 3, 4), LatentSpec("gaussian", 3)]


def inputs() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    is_first = torch.zeros(6, 2, dtype=torch.bool)
    is_first[0, 0] = True
    return torch.randn(6, 2, 2, generator=generator), torch.randn(6, 2, 5, generator=generator), is_first


@pytest.mark.parametrize("latent", LATENTS, ids=lambda latent: latent.kind)
def test_observe_starts_from_zero_and_can_be_continued(latent: LatentSpec) -> None:
    torch.manual_seed(0)
    rssm = RSSM(latent, 7, 6, 2, 5, 3)
    action, embed, is_first = inputs()
    zeros = torch.zeros(2, 7), torch.zeros(2, latent.size)
    for ours, theirs in zip(rssm.initial(2), zeros, strict=True):
        assert torch.equal(ours, theirs)
    key = Key(0, 1)
    found = rssm.observe(action, embed, is_first, key)
    expected = observe_op(action, embed, is_first, *zeros, rssm.cell(), rssm.posterior(), latent, key)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)
    # The noise of a continuation begins at number 0 again, so only its first row can be compared.
    state = found[0][-1], found[1][-1]
    after = rssm.observe(action[:1], embed[:1], torch.zeros(1, 2, dtype=torch.bool), key, state)
    assert not torch.isclose(after[0][0], rssm.observe(action[:1], embed[:1], is_first[:1], key)[0][0]).all()


@pytest.mark.parametrize("latent", LATENTS, ids=lambda latent: latent.kind)
def test_priors_over_a_sequence_are_those_of_each_step(latent: LatentSpec) -> None:
    torch.manual_seed(0)
    rssm = RSSM(latent, 7, 6, 2, 5, 3)
    deter = torch.randn(6, 2, 7)
    found = rssm.priors(deter)
    assert found.shape == (3, 6, 2, latent.params)
    for t in range(6):
        torch.testing.assert_close(found[:, t], priors_op(deter[t], rssm.prior()))
    assert not torch.isclose(found[0], found[1]).all()  # members begin apart


def test_observe_takes_the_latents_std() -> None:
    """No compiled operator knows softplus: the reference serves, and ``compiled`` is refused."""
    torch.manual_seed(0)
    latent = LatentSpec("gaussian", 3, std="softplus")
    rssm = RSSM(latent, 7, 6, 2, 5, 3)
    _, stoch, params = rssm.observe(*inputs(), Key(0, 1))
    mean, raw = params.chunk(2, -1)
    noise = draw_noise(latent, Key(0, 1), (6, 2), stoch)
    torch.testing.assert_close(stoch, mean + (torch.nn.functional.softplus(raw) + 0.1) * noise)
    rssm.ops = "compiled"
    if available():
        with pytest.raises(
            SettingError, match="ops: found 'compiled' with world_model.latent_std: softplus in observe"
        ):
            rssm.observe(*inputs(), Key(0, 1))


def test_frozen_weights_have_no_gradient() -> None:
    rssm = RSSM(LATENTS[0], 7, 6, 2, 5, 3)
    for frozen in (False, True):
        assert all(w.requires_grad is not frozen for w in (*rssm.cell(frozen), *rssm.prior(frozen)))
    weights = {w.data_ptr() for w in (*rssm.cell(), *rssm.prior(), *rssm.posterior())}
    assert weights == {p.data_ptr() for p in rssm.parameters()}  # nothing is left out
