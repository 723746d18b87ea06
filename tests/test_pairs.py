"What a training step is shown: the same draws for ever, by clip or by person, and changed in the same way."
import hashlib, json
import numpy as np, torch
from animrepro.core import rng
from animrepro.data.pairs import Addresses, Augment, Draw, Pairs, augment_item, loader
from animrepro.data.store import Clip


class Asked:
    "A store of clips that notes what it is asked for."
    path, size = "none", 4

    def __init__(self, people=None):
        meta = [{}] * 7 if people is None else [{"person": p} for p in people]
        self.clips, self.seen = [Clip(str(i), "train", 9 + i, 25, m) for i, m in enumerate(meta)], []

    def split(self, name): return list(range(len(self.clips)))
    def regions(self, clip, t): return None

    def frames(self, clip, ts):
        self.seen.append([clip, *map(int, ts)])
        return np.zeros((len(ts), 4, 4, 3), np.uint8)


def test_draws_are_those_of_the_runs_of_record():
    digests = []
    for frames in (Draw(), Draw(2, single=0.4, near=0.6)):
        store = Asked()
        seeds = [b.seeds.tolist() for b in loader(Pairs(store, "train", frames, 3), 4, range(5, 12))]
        digests.append(hashlib.sha256(json.dumps([store.seen, seeds]).encode()).hexdigest()[:16])
    assert digests == ["313f263e7c9a67db", "954d4e6b31071bc1"]  # of the code that trained them


def test_addresses_are_made_one_by_one_and_agree_with_all_at_once():
    assert list(Addresses(range(3, 900), range(2, 6))) == [[(s, i) for i in range(2, 6)] for s in range(3, 900)]
    endless = Addresses(range(10**12), range(32))  # all at once they would not fit any memory
    assert len(endless) == 10**12 and next(iter(endless))[-1] == (0, 31)


def test_people_are_drawn_with_equal_probability():
    share = {}
    for by_person in (False, True):
        store = Asked(["a"] + ["b"] * 19)
        pairs = Pairs(store, "train", Draw(1, by_person=by_person), 0)
        for step in range(400): pairs[step, 0]
        share[by_person] = np.mean([clip == 0 for clip, *_ in store.seen])
    assert 0.02 < share[False] < 0.09 and 0.43 < share[True] < 0.57
    strangers = Asked()
    assert len(Pairs(strangers, "train", Draw(1, by_person=True), 0).people) == 7  # nobody known: each clip for itself


def changed(images, regions=None, **changes):
    return augment_item(images, regions, Augment(**changes), rng(0, "test"))


def test_colours_change_alike_in_all_frames_and_grey_keeps_its_hue():
    colour = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).expand(3, -1, -1, -1)
    grey = torch.full((3, 3, 8, 8), 0.5)
    for changes in (dict(jitter=0.1), dict(hue=0.1), dict(jitter=0.1, hue=0.1)):
        new, _ = changed(colour, **changes)
        assert torch.equal(new[0], new[2]) and 0.001 < (new - colour).abs().mean() < 0.2
        new, _ = changed(grey, **changes)
        assert torch.allclose(new[:, 0], new[:, 1], atol=1e-5) and (new - grey).abs().max() < 0.15
    assert torch.equal(changed(colour)[0], colour)


def test_labels_are_resized_and_cut_with_their_pictures():
    regions = torch.zeros(2, 40, 40, dtype=torch.uint8)
    regions[:, 10:30, 12:26] = 1
    images = regions[:, None].float().expand(-1, 3, -1, -1)
    for factor in (0.8, 1.25):
        new, labels = changed(images, regions, resize=(factor, factor))
        assert new.shape == images.shape and labels.dtype == torch.uint8
        assert ((new[:, 0] > 0.5) != labels.bool()).float().mean() < 0.03
        assert abs(labels.float().sum() / regions.float().sum() - factor**2) < 0.15
