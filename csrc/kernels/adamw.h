#pragma once

#include "runtime/task.h"
#include "tensor/view.h"

namespace attnedit::kernels {

// One step of AdamW [Loshchilov & Hutter 2019], in one pass over the parameter:
//   g = gradient * gradient_scale[0]      (gradient_scale (1): the clip factor, read when the task runs; absent: 1)
//   m = beta1 m + (1 - beta1) g     v = beta2 v + (1 - beta2) g^2
//   parameter -= rate * (m / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + eps) + weight_decay * parameter)
//   all (n); step counts from 1; the gradient is set to zero behind it when zero_gradient is set
// rounded, which may be absent, becomes the parameter in bfloat16: the weight that a model multiplies with, while the
// float32 parameter is the master that remembers steps smaller than bfloat16 can hold [Micikevicius et al. 2018].
struct AdamWOptions {
  float rate, beta1 = 0.9f, beta2 = 0.95f, eps = 1e-8f, weight_decay = 0;
  int64_t step = 1;
  bool zero_gradient = true;
};

Task adamw(View<float, 1> parameter, View<float, 1> gradient, View<float, 1> m, View<float, 1> v,
           View<const float, 1> gradient_scale, View<uint16_t, 1> rounded, AdamWOptions options);

// squared_norm[0] += |gradient|^2, in double inside, in one fixed order. workspace: squared_norm_workspace(n) floats.
int64_t squared_norm_workspace(int64_t n);
Task squared_norm(View<const float, 1> gradient, View<float, 1> squared_norm, View<float, 1> workspace);

// scale[0] = min(1, limit / sqrt(squared_norm[0])): the clip factor for a global gradient norm.
Task clip_scale(View<const float, 1> squared_norm, float limit, View<float, 1> scale);

}  // namespace attnedit::kernels
