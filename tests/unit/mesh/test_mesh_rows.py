# SPDX-License-Identifier: Apache-2.0
"""Tables that share what they have in common, and stores that know what changed."""

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.rows import Rows, changed_keys
from mesh.store import Store

KEYS = st.integers(0, 600)
CHANGES = st.tuples(st.dictionaries(KEYS, st.integers(0, 3)), st.sets(KEYS), st.booleans())


@settings(deadline=None)
@given(st.lists(CHANGES, max_size=12))
def test_rows_are_a_mapping_that_never_changes_and_know_what_did(changes):
    """Some changes are of an older table than the last: branches, whose parts both must count."""
    made = [(Rows(), {})]
    for upserts, removes, back in changes:
        rows, plain = made[len(made) // 2 if back else -1]
        gone = removes - upserts.keys()
        after = rows.change(upserts, gone)
        expected = {key: row for key, row in (plain | upserts).items() if key not in gone}
        assert (after is rows) == (expected == plain)
        assert after.become(expected) is after
        assert rows.become(expected) == after
        made.append((after, expected))
    for rows, plain in made:
        assert rows == plain
        assert dict(rows) == plain
        assert len(rows) == len(plain)
        assert sorted(rows.values()) == sorted(plain.values())
        assert all(rows[key] == row and key in rows for key, row in plain.items())
        assert rows.get(601) is None
        for other, others in made:
            keys = changed_keys(rows, other)
            assert keys is not None
            assert {k for k in plain | others if plain.get(k) != others.get(k)} <= set(keys)


def test_tables_that_have_nothing_in_common_must_be_compared():
    rows = Rows()
    for number in range(100):
        rows = rows.change({number: number})
    assert changed_keys(Rows().change({1: 1}), rows) is None
    assert changed_keys({1: 1}, rows) is None
    assert changed_keys(rows, rows.change(dict.fromkeys(range(100, 2000), 1))) is None
    assert changed_keys(rows, rows) == ()


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=40), st.integers(0, 40))
def test_a_store_tells_what_changed_since(changes, when):
    store: Store[int, int] = Store()
    revisions, touched = [store.revision], []
    for key, insert in changes:
        if insert:
            store.insert(key, key)
        elif key in store:
            store.remove(key)
        else:
            store.remove(key)
            assert store.revision == revisions[-1], "nothing was there"
            continue
        revisions.append(store.revision)
        touched.append(key)
    when = min(when, len(touched))
    assert set(store.changed_since(revisions[when])) == set(touched[when:])


def test_a_store_says_so_when_too_much_has_changed():
    store: Store[int, int] = Store()
    for key in range(5000):
        store.insert(key, key)
    assert store.changed_since(0) is None
    assert store.changed_since(store.revision - 3) == [4999, 4998, 4997]
