import numpy as np
import pytest
import torch

from moto_pl.callbacks.collect import CollectSettings
from moto_pl.errors import SettingError
from moto_pl.ops import Key
from moto_pl.rollout.explore import DETOUR_STEPS, Exploration, Explorer

CPU = torch.device("cpu")


def explored(exploration: Exploration, steps: int, count: int = 1, actions: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """What is done in place of a policy's 0.9, [T, n, A], and who is on a detour, [T, n]."""
    explorer = Explorer(exploration, count, Key(0, 1), CPU)
    found = [explorer(torch.full((count, actions), 0.9), Key(0, 1).fold(t)) for t in range(steps)]
    done = np.stack([action.numpy() for action, _ in found])
    return done, np.stack([np.zeros(count, bool) if on is None else on.numpy() for _, on in found])


def test_without_any_the_policy_acts() -> None:
    done, on = explored(Exploration(), 20)
    assert (done == np.float32(0.9)).all() and not on.any()
    assert Explorer(Exploration(), 1, Key(0, 1), CPU)(torch.zeros(1, 3), Key(0, 1))[1] is None


def test_noise_stays_within_bounds() -> None:
    done, _ = explored(Exploration(noise=(0.5, 0.5)), 50)
    assert np.abs(done).max() <= 1 and np.std(done) > 0.1


@pytest.mark.parametrize("hold", [1, 4])
def test_a_draw_of_noise_is_held(hold: int) -> None:
    explorer = Explorer(Exploration(noise=(0.1, 0.1), hold=hold), 3, Key(0, 1), CPU)
    policy = torch.linspace(-0.2, 0.2, 12)  # the noise is added to what the policy does at each step
    done = np.stack([explorer(torch.full((3, 2), float(a)), Key(0, 1).fold(t))[0] for t, a in enumerate(policy)])
    added = done - policy.numpy()[:, None, None]  # [T, n, A]
    changes = np.abs(np.diff(added, axis=0)) > 1e-6
    expected = np.arange(1, 12) % hold == 0
    assert (changes == expected[:, None, None]).all() and 0.05 < added.std() < 0.2


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_a_detour_holds_one_action_for_its_length(share: float) -> None:
    done, on = explored(Exploration(detours=(share, share)), 400, count=100)
    assert abs(on.mean() - share) < 0.15 * share
    assert abs(on[:20].mean() - share) < 0.35 * share  # from the first step on
    assert (done[~on] == np.float32(0.9)).all()
    held, lengths = [], []
    for n in range(on.shape[1]):
        edges = np.flatnonzero(np.diff(np.concatenate(([0], on[:, n].astype(int), [0]))))
        for begin, end in edges.reshape(-1, 2):
            assert (done[begin:end, n] == done[begin, n]).all()
            held.append(done[begin, n])
            if begin > 0 and end < len(on):
                lengths.append(end - begin)
    assert 0.8 * DETOUR_STEPS < np.mean(lengths) < 1.2 * DETOUR_STEPS
    values = np.concatenate(held)
    assert abs((values == 0).mean() - 0.5) < 0.06 and np.abs(values).max() <= 1
    moved = values[values != 0]
    assert abs(moved.mean()) < 0.1 and abs(moved.std() - 1 / np.sqrt(3)) < 0.06


def test_episodes_differ_and_repeat() -> None:
    share = Exploration(detours=(0.0, 0.8))
    done, on = explored(share, 300, count=30)
    again, _ = explored(share, 300, count=30)
    assert np.array_equal(done, again)
    shares = on.mean(axis=0)
    assert shares.min() < 0.2 and shares.max() > 0.6


@pytest.mark.parametrize("found", [(-0.1, 0.5), (0.5, 0.2), (0.0, 0.95)])
def test_a_share_that_is_none_is_refused(found: tuple[float, float]) -> None:
    with pytest.raises(SettingError, match="data.exploration_detours"):
        CollectSettings("moto_pl/Reach-v0", exploration_detours=found)


@pytest.mark.parametrize(("hold", "noise"), [(0, (0.1, 0.1)), (5, (0.0, 0.0))])
def test_a_hold_that_is_none_or_holds_nothing_is_refused(hold: int, noise: tuple[float, float]) -> None:
    with pytest.raises(SettingError, match="data.exploration_hold"):
        CollectSettings("moto_pl/Reach-v0", exploration_noise=noise, exploration_hold=hold)
