"""Campaigns: tests of many cases that take minutes to an hour, run by hand, with their outcomes in benchmarks/results.

    python -m tests.campaigns.golden           broken copies of handlers, which golden images must refuse
    python -m tests.campaigns.interleavings    two commands at once, stopped and killed at random steps
    python -m tests.campaigns.layouts          odd folders of raw images
    python -m tests.campaigns.names            odd names in every verb
    python -m tests.campaigns.pictures         the test pictures of image libraries, compared with libvips

The suite runs a sample of each.
"""
