"""Where images come from before packing.

A source lists its items without reading them, so that each packing process can open its own copy and read
just the items of its shards.
"""
