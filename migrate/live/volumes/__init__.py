"""What of a container lies outside its root file system, and how it travels.

    volume.py      a volume, and what its destination says of it
    find.py        which volumes a container has (source)
    look.py        what is at their places (destination)
    decide.py      the policy of each, and what is wrong with it (pure)
    alike.py       digests of whole trees, and the proof that storage is shared
    layers.py      the layers of an overlay root file system
    stowage.py     what the destination makes, and takes away again
    travel.py      all of it in the order of a migration (source)
    mapping.py     the file that says what is called otherwise over there

May import `migrate.live.filesystem`; imported by `migrate.live` and, for the mapping
file, by `migrate.cli`.
"""
