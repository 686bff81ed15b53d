// The border between the program and its kernels: plain functions over plain arrays, one for each instruction set.
#pragma once

// Causal attention of one head: q, k, v and out are [tokens x width], row after row.
using Attention = void(const float* q, const float* k, const float* v, float* out, int tokens, int width);

Attention attention_baseline, attention_avx2, attention_avx512;
