"""The allowed difference between an answer and the evaluated one, for export, golden images and served answers."""

# Of a probability, in float32: another batch size, another build, tracing.
FP32 = 1e-4
# Total variation distance (half the sum over all classes) allowed in bf16, fp16 and int8; unlike the largest difference
# it also catches errors spread over many unlikely classes.
ROUNDED = 0.1
# In nats: a best class that leads the second by this much stays the best in every precision.
SAME_BEST = 0.5
# Of how log probabilities vary from image to image, the part that may be lost; one answer to everything loses all.
VARIATION = 0.5
# Of log probabilities: the resolution of bf16 (its steps are 1/256).
RESOLUTION = 0.01
# Levels of 255, of the network's input on average over an image, in every precision: another processor rounds.
PIXELS = 1.0
# The same where a GPU decodes: nvJPEG repeats colours where libjpeg interpolates (up to 3.7 levels on photographs).
PIXELS_NVJPEG = 6.0
# Of many images: the share whose best label stays in bf16 and fp16, and the part of top-1 that int8 may cost.
ROUNDED_SAME_TOP1 = 0.998
INT8_TOP1_LOST = 0.005
