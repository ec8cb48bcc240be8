// Attention of a residual block: its maps are scaled by what they hold themselves, by channel and
// by pixel, before the residual is added. Not attention between pixels, as transformers have it.
#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <vector>

#include "model/batch_statistics.h"
#include "model/initialiser.h"
#include "model/model.h"

namespace skipway {

/// The words that `--attention` takes: none, and what Attention can be.
const std::vector<std::string>& attention_names();

/// One block's attention, with the arithmetic, the names and the initial values of timm's SEModule,
/// EcaModule and CbamModule in a ResNet:
///   se    sigmoid(fc2(relu(fc1(mean over pixels)))) scales the channels; fc1 has a sixteenth of
///         them, in multiples of 8 (Hu et al., arXiv:1709.01507)
///   eca   the same of a convolution of 3 or more neighbouring channels (Wang et al.,
///         arXiv:1910.03151)
///   cbam  the same of fc1 and fc2 without biases, of the mean and of the largest value, added;
///         then sigmoid(batch_norm(7x7 convolution of the mean and the largest value over
///         channels)) scales the pixels (Woo et al., arXiv:1807.06521)
class Attention {
 public:
  /// Model::add_parameter() and add_batch_norm().
  using AddParameter = std::function<at::Tensor(const std::string& name, at::Tensor values)>;
  using AddBatchNorm = std::function<BatchNorm(const std::string& name, int64_t channels)>;

  /// `kind`: se, eca or cbam. Names begin with `name`: "layer1.0.se" gives layer1.0.se.fc1.weight.
  Attention(const std::string& kind, int64_t channels, const std::string& name, Initialiser& init,
            const AddParameter& add_parameter, const AddBatchNorm& add_batch_norm);

  /// Shapes: src [n,c,h,w] -> a new map like it. Means, gates and the 7x7 convolution are in the
  /// parameters' type; autocast counts for nothing. `training`: as Model::forward.
  at::Tensor forward(const at::Tensor& src, bool training);
  void set_batch_norm_momentum(double momentum) { norm_.momentum = momentum; }

 private:
  at::Tensor channel_gate(const at::Tensor& src) const;
  at::Tensor pixel_gate(const at::Tensor& src, bool training);

  std::string kind_;
  at::Tensor fc1_weight_, fc1_bias_, fc2_weight_, fc2_bias_;  // se and cbam; biases of se alone
  at::Tensor neighbours_;                                     // eca, [1,1,k]
  at::Tensor spatial_weight_;                                 // cbam, [1,2,7,7]
  BatchNorm norm_;                                            // cbam, of one channel
};

/// What one attention adds to model_cost(), on maps of side x side; nothing for "none".
ModelCost attention_cost(const std::string& kind, int64_t channels, int64_t side,
                         int64_t bytes_per_value);

}  // namespace skipway
