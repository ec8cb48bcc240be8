// Weights to begin with that this run did not train: of another run, of a file, or published by
// torchvision. Reading them and putting them into a model; not the training that follows.
#pragma once
#include <optional>
#include <string>
#include <string_view>

#include "base/tensors.h"
#include "data/fetch.h"
#include "model/model.h"

namespace skipway {

struct Pretrained {
  NamedTensors tensors;           // under torchvision's names
  std::optional<ModelSpec> spec;  // what the source says of them; none in a file from elsewhere
  std::string where;              // the file, for errors
};

/// Whether a source of weights, as read_pretrained() takes it, is something to fetch and no path.
bool is_fetched(std::string_view source);

/// `source` is a run's folder, a file of safetensors or of torch.save, whatever its name,
/// "torchvision:resnet50" (known_weights(); fetched into data_directory()/torchvision unless it is
/// there), or the address of a file that has digits of its SHA-256 in its name (…/weights unless it
/// is there). A "state_dict" or "model" around the weights is taken off and "module." before their
/// names; a num_batches_tracked that is missing is 0. Errors: kUsage for an unknown name of
/// weights, an address without digits, or a folder that is no run; kData for a file that cannot be
/// read; kCheckpoint for one without tensors, or with one that is not finite; as fetch_file.
Pretrained read_pretrained(const std::string& source, const FetchOptions& options = {});

/// What the weights' own shapes say of `model`: a stem of 7x7 (ImageNet's mean, standard deviation
/// and 224 pixels go with it) or of 3x3 (CIFAR's and 32, which go with an airbench too), the number
/// of classes, and what their names say: the attention.
ModelSpec spec_from_shapes(const Pretrained& weights, const std::string& model);

/// Copies the weights into `model`. Where the weights are of other classes, by number or by name,
/// or have no head, the head stays as it is, and the log says so. Errors: kCheckpoint as
/// Model::load_state.
void load_pretrained(Model& model, const Pretrained& weights);

}  // namespace skipway
