// How good a model is on labelled images: accuracy, interval, confusion. No training.
#pragma once
#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "model/model.h"

namespace skipway {

/// Images at once where nobody says how many: of this side [pixels], as many as have the pixels of
/// 500 of CIFAR's, which saturate two cores in some 300 MB; 16 to 500.
int64_t evaluation_batch(int64_t side);

/// That --tta and --tta-shift ask for.
constexpr int64_t views_of(bool tta, bool shift) { return !tta ? 1 : shift ? 6 : 2; }

struct EvaluateOptions {
  at::ScalarType precision = at::kFloat;
  int64_t batch = 500;
  int64_t views = 1;  // of each image, whose logits are averaged too: 2 with its mirror image; 6
                      // with as much again from the images moved by a pixel up and left, and down
                      // and right, as in airbench
  std::function<bool()> cancelled;        // may be empty
  std::function<void(int64_t)> progress;  // may be empty; gets images done
};

struct Evaluation {
  int64_t n = 0;
  double loss = 0;                              // mean cross entropy [nats]
  double accuracy = 0;                          // in [0,1]
  int64_t views = 1;                            // of each image, that accuracy_tta averages
  double accuracy_tta = 0;                      // in [0,1]; equal to accuracy where views is 1
  std::vector<std::vector<int64_t>> confusion;  // [label][prediction], of the plain view
};

/// Logits of uint8 images by the model in evaluation mode, the average of all views.
/// Shapes: uint8 [n,h,w,3] -> fp32 [n,classes] on the CPU. Errors: kMemory.
at::Tensor predict_logits(Model& model, const at::Tensor& images, const EvaluateOptions& options);

/// Of the images seen until it was cancelled, if it was; n may be 0 then. Errors: kData for a split
/// without images, kMemory.
Evaluation evaluate(Model& model, const Split& split, const EvaluateOptions& options);

struct ClassAccuracy {
  int64_t n = 0;        // images of the class
  double accuracy = 0;  // of them, in [0,1]
};

/// One for each class, of the plain view.
std::vector<ClassAccuracy> accuracy_per_class(const Evaluation& evaluation);

/// Wilson score interval at 95 % of a share `accuracy` of `n`. Source: Wilson, JASA 22 (1927).
std::array<double, 2> interval95(double accuracy, int64_t n);

/// "89.88 % (95 % interval 89.0 to 90.7 %), 90.66 % with flip TTA".
std::string describe(const Evaluation& evaluation);

}  // namespace skipway
