// Where a run's numbers stopped being numbers, and what it then leaves behind for a person to look
// at. Not the going back; see trainer.h.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data/batches.h"
#include "data/dataset.h"
#include "model/model.h"
#include "record/run_folder.h"

namespace skipway {

struct Breakdown {
  std::string where;  // "conv2d of layer1.0.conv1"; empty: no value of the forward pass
  std::vector<std::string> weights;    // those that are not finite, in the model's order
  std::vector<std::string> gradients;  // likewise, of the backward pass that was made before
};

/// The forward pass of `images` in training mode once more, layer by layer in LibTorch's
/// operations, up to the first that gives a value that is not finite. BatchNorm's running
/// statistics are updated.
Breakdown find_breakdown(Model& model, const at::Tensor& images, const at::Tensor& labels,
                         at::ScalarType precision);

/// One sentence: what was found first.
std::string describe(const Breakdown& breakdown);

/// Writes the folder RUN/trouble: batch.png, the images of the batch as they are stored, row by
/// row; and trouble.json, which is `facts`, the breakdown, and row, name and label of each image.
/// Errors: kDisk.
void write_trouble(const RunFolder& run, nlohmann::ordered_json facts, const Breakdown& breakdown,
                   const Batch& batch, const Dataset& dataset);

}  // namespace skipway
