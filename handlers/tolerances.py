"""By how much an answer may differ from the evaluated one: one place for export, golden images and served answers."""

# Of a probability, in float32: another batch size, another build, tracing.
FP32 = 1e-4
# In the precisions that round, of what two answers to one image are apart: half the sum over all classes (the total
# variation), which tells a wrong answer also where every class is unlikely.
ROUNDED = 0.1
# In nats: where the best class is more likely than the second by this, it stays the best in every precision.
SAME_BEST = 0.5
# Of how log probabilities vary from image to image, the part that may be lost; one answer to everything loses all.
VARIATION = 0.5
# Of log probabilities: what bf16 does not resolve (its steps are 1/256).
RESOLUTION = 0.01
# Levels of 255, of the network's input on average over an image, in every precision: another processor rounds.
PIXELS = 1.0
# The same where a GPU decodes: nvJPEG repeats colours where libjpeg interpolates (up to 3.7 levels on photographs).
PIXELS_NVJPEG = 6.0
# Of many images: the share whose best label stays in bf16 and fp16, and the part of top-1 that int8 may cost.
ROUNDED_SAME_TOP1 = 0.998
INT8_TOP1_LOST = 0.005
