"""Readers of image collections: folders, zips, parquet files, LMDBs and built-in data sets.

A source lists its items without reading them. Each packing process opens its own copy and reads only the items of its
shards.
"""
