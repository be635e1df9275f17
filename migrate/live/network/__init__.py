"""The container's network on its way: looked at here, built there, switched over.

    plan.py       what it is, as data             describe.py   looking, on the source
    build.py      making it, taking it away       switch.py     off here, on there
    links.py, rtnetlink.py                        the kernel's form of it
    sysctls.py, announce.py                       its settings; ARP and neighbour discovery

May import `migrate.checkpoint.netns`; imported by `migrate.live`.
"""
