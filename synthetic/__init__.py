"""Images drawn by rule, in the exact on-disk layout of each of the five public data sets.

They need no network and no account, so that everything else can be tried and tested anywhere. What a class looks like
is fixed; `seed` decides the images only. Each image has a random stream of its own, so the files are the same whatever
the number of workers. Made by

    python -m synthetic fingers data/raw/fingers
"""
