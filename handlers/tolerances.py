"""By how much an answer may differ from the evaluated one: one place for export, golden images and served answers."""

# Of a probability, in float32: another batch size, another build, tracing.
FP32 = 1e-4
# In the precisions that round, of what two answers to one image are apart: half the sum over all classes (the total
# variation), which tells a wrong answer also where every class is unlikely.
ROUNDED = 0.1
# Of many images: the share whose best label stays in bf16 and fp16, and the part of top-1 that int8 may cost.
ROUNDED_SAME_TOP1 = 0.998
INT8_TOP1_LOST = 0.005
