"""Joint tables against the data sets' own documents."""

import numpy as np
import pytest

from tdpose_jax import skeleton as sk


def test_official_order_maps_to_slots():
    """The map of data sets' documentation, derived here from names."""
    expected = (16, 14, 12, 11, 13, 15, 10, 8, 6, 5, 7, 9, 1, 0, 2)
    assert sk.OFFICIAL_TO_SLOT == expected


def test_flip_pairs_of_each_set():
    assert sk.POSETRACK.flip_pairs == tuple((i, i + 1) for i in range(3, 17, 2))
    as_sets = {frozenset(pair) for pair in sk.HIEVE.flip_pairs}
    published = [(2, 5), (3, 6), (4, 7), (8, 11), (9, 12), (10, 13)]
    assert as_sets == {frozenset(pair) for pair in published}


@pytest.mark.parametrize("skeleton", sk.SKELETONS.values(), ids=lambda s: s.name)
def test_tables_are_consistent(skeleton):
    k = skeleton.num_keypoints
    permutation = np.array(skeleton.flip_permutation)
    assert (permutation[permutation] == np.arange(k)).all(), "flip twice is identity"
    halves = [*skeleton.upper_body, *skeleton.lower_body, *skeleton.unannotated]
    assert sorted(halves) == list(range(k))
    for a, b in skeleton.limbs:
        assert a != b and max(a, b) < k
    grouped = {joint for group in skeleton.groups.values() for joint in group}
    assert grouped == {skeleton.joints[i] for i in skeleton.evaluated}


def test_sizes_and_halves():
    sizes = {name: s.num_keypoints for name, s in sk.SKELETONS.items()}
    assert sizes == {"posetrack": 17, "hieve": 14, "jhmdb": 15, "coco": 17}
    assert len(sk.POSETRACK.evaluated) == 15
    assert sk.POSETRACK.lower_body == tuple(range(11, 17))


def test_unknown_names_list_the_choices():
    with pytest.raises(ValueError, match="posetrack, hieve, jhmdb, coco"):
        sk.get_skeleton("mpii")
    with pytest.raises(ValueError, match="no joint 'pelvis'; it has nose"):
        sk.COCO.index("pelvis")
