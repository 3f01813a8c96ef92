"""State vectors in networks."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_world_model import KEY, sequences

from moto_pl.envs.observation import Observation
from moto_pl.errors import SettingError
from moto_pl.nn import States, WorldModel
from moto_pl.nn.vector import LIMIT, Normalised, VectorEncoder
from moto_pl.replay.sampler import SequenceBatch
from tiny_model import TINY_MODEL

HAND = Observation(("image",), {"hand": 2, "grip": 1}, (1.0, -2.0, 0.0), (0.5, 2.0, 1.0))


def make(observation: Observation = HAND, **changes: object) -> WorldModel:
    torch.manual_seed(0)
    config = dataclasses.replace(TINY_MODEL, vector_layers=1, vector_units=7, **changes)  # type: ignore[arg-type]
    return WorldModel(config, 2, observation=observation)


def batch() -> SequenceBatch:
    vector = torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(2))
    return sequences()._replace(vector=vector)


def test_normalised_by_hand() -> None:
    found = Normalised((1.0, -2.0), (0.5, 2.0))(torch.tensor([[2.0, -2.0], [1.0, 2.0], [1e9, -1e9]]))
    assert found.tolist() == [[2.0, 0.0], [0.0, 2.0], [LIMIT, -LIMIT]]


def test_statistics_are_kept_with_the_weights_and_are_not_trained() -> None:
    encoder = VectorEncoder(HAND.mean, HAND.std, 1, 4)
    other = VectorEncoder((0.0,) * 3, (1.0,) * 3, 1, 4)
    other.load_state_dict(encoder.state_dict())
    vector = torch.randn(5, 3)
    assert torch.equal(encoder(vector), other(vector))
    assert {name for name, _ in encoder.named_parameters()} == {"mlp.linears.0.weight", "mlp.linears.0.bias"}
    bare = VectorEncoder(HAND.mean, HAND.std, 0, 4)
    assert bare.out_features == 3 and torch.equal(bare(vector), bare.normalised(vector))


def test_without_vectors_a_model_is_what_it_was() -> None:
    """To the bit: the same weights from a seed, under the same names."""
    plain, seen = make(Observation()), make()
    assert not [name for name in plain.state_dict() if "vector" in name] and plain.vector is None
    assert "model/vector" not in plain.scales and "model/vector" not in plain.loss(sequences(), KEY)[0]
    shared = [name for name in plain.state_dict() if name.startswith("encoder.")]
    assert shared and all(torch.equal(plain.state_dict()[name], seen.state_dict()[name]) for name in shared)


def test_vectors_join_the_embedding_and_move_the_posterior() -> None:
    model, rows = make(), batch()
    assert rows.vector is not None
    embed = model.embed(rows.image, rows.vector)
    assert torch.equal(embed[..., :-7], model.encoder(rows.image))
    normal = (rows.vector - torch.tensor(HAND.mean)) / torch.tensor(HAND.std)
    assert model.vector_encoder is not None
    expected = torch.nn.functional.elu(torch.nn.functional.linear(normal, *model.vector_encoder.mlp.weights()[0]))
    torch.testing.assert_close(embed[..., -7:], expected)
    changed = rows._replace(vector=rows.vector + torch.tensor([0.0, 0.0, 1.0]))
    one, other = model.observe(rows, KEY), model.observe(changed, KEY)
    assert not torch.equal(one.params, other.params)
    one.params.square().sum().backward()
    grads = [parameter.grad for parameter in model.vector_encoder.parameters()]
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads)


def test_the_loss_of_vectors_by_hand() -> None:
    model, rows = make(vector_scale=3.0), batch()
    (losses, _), post = model.loss(rows, KEY), model.observe(rows, KEY)
    assert rows.vector is not None and model.vector is not None and model.scales["model/vector"] == 3.0
    target = ((rows.vector - torch.tensor(HAND.mean)) / torch.tensor(HAND.std)).clamp(-LIMIT, LIMIT)
    wanted = 0.0
    for b in range(3):
        for t in range(5):
            error = model.vector(post.states.features[t, b]) - target[b, t]
            wanted += 0.5 * float((error.detach() ** 2).sum()) / 15
    assert float(losses["model/vector"]) == pytest.approx(wanted, rel=1e-5)
    assert set(losses) == set(model.scales)


def test_acting_sees_the_vectors_as_training_does() -> None:
    model, rows = make(), batch()
    assert rows.vector is not None
    first = model.step(
        States(*model.rssm.initial(3)), rows.action[:, 0], rows.image[:, 0], rows.is_first[:, 0], KEY, rows.vector[:, 0]
    )
    one = rows.map(lambda part: part[:, :1])
    wanted = model.observe(one, KEY).states.map(lambda x: x[0])
    assert torch.equal(first.deter, wanted.deter) and torch.equal(first.stoch, wanted.stoch)
    predicted = model.predict(rows, 3, KEY).features
    again = rows._replace(vector=torch.cat((rows.vector[:, :3], rows.vector[:, 3:] + 1), 1))
    assert torch.equal(model.predict(again, 3, KEY).features, predicted)  # what follows the context is not seen


@pytest.mark.parametrize(("name", "value"), [("vector_layers", -1), ("vector_units", 0)])
def test_refusals(name: str, value: int) -> None:
    with pytest.raises(SettingError, match=f"world_model.{name}"):
        dataclasses.replace(TINY_MODEL, **{name: value})  # type: ignore[arg-type]
