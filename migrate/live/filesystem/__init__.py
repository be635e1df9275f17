"""The container's files on their way: two halves of a sync, beneath one root each.

    source.py    → passes over the link →    receiver.py
    inventory.py   what changed              roster.py, base.py   what is there
    watch.py       where to look             names.py             hard links
    content.py     blocks and holes          files.py             writing them
    batch.py, passes.py                      how it all looks on the wire
    trees.py                                 all trees of a container together
    beneath.py, attributes.py                one file, by descriptor
    mapped.py      files whose times or events do not tell

May import `migrate.transport.link`; imported by `migrate.live`.
"""
