"""Forms of operations for GPUs, which are bound by the number of launches: few and large ones. Only `enas.ops` imports them.

Nothing in this folder has run on a GPU yet. Before the first use on a device `registry` compares it with the plain form
there, and leaves it out where it is missing or differs.
"""
