"""Images drawn by rule, in the exact on-disk layout of each of the five public data sets.

They need no network and no account, so that everything else can be tried and tested anywhere. The look of a class is
fixed; `seed` decides the images only. Each image has its own random stream, so the files are the same whatever the
number of workers. Made by

    python -m synthetic fingers data/raw/fingers
"""
