#include "train/freeze.h"

#include <algorithm>

#include "model/airbench.h"

namespace skipway {

void freeze_at(double epoch, const Config& config, Model& model) {
  model.set_frozen(epoch < config.freeze_epochs, config.freeze_batch_norm);
  if (config.whiten_bias_epochs == 0 || !is_airbench(config.model)) return;
  for (const auto& [name, parameter] : model.parameters())
    if (name == "0.bias") parameter.set_requires_grad(epoch < config.whiten_bias_epochs);
}

double early_epochs(const Config& config) {
  return std::max(config.freeze_epochs, is_airbench(config.model) ? config.whiten_bias_epochs : 0);
}

}  // namespace skipway
