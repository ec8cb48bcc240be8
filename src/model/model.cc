// ResNet-18, 34 and 50 out of ATen's operators, their layers' shapes, and the model's description
// as text. Not reading or writing of files; see record/safetensors.h.
#include "model/model.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <fmt/ranges.h>

#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/rng.h"

namespace skipway {
namespace {

constexpr int64_t kStemChannels = 64;
// Above what any data set has; keeps a damaged file from asking for a huge last layer.
constexpr int64_t kMaxClasses = 1 << 20;
constexpr int64_t kMaxImageSize = 1 << 14;

struct ConvShape {
  int64_t in, out, kernel, stride, padding;

  int64_t parameters() const { return out * in * kernel * kernel; }
  int64_t output_size(int64_t size) const { return (size + 2 * padding - kernel) / stride + 1; }
};

struct BlockShape {
  std::string name;  // layer1.0
  std::vector<ConvShape> convs;
  std::optional<ConvShape> downsample;
};

struct NetShape {
  ConvShape stem;
  bool max_pool;
  std::vector<BlockShape> blocks;
  int64_t features;
};

// What differs between the models: blocks in each of the four stages, and the kind of block.
struct Family {
  std::array<int, 4> depths;
  bool bottleneck;
};

const std::map<std::string, Family>& families() {
  static const std::map<std::string, Family> all = {
      {"resnet18", {{2, 2, 2, 2}, false}},
      {"resnet34", {{3, 4, 6, 3}, false}},
      {"resnet50", {{3, 4, 6, 3}, true}},
  };
  return all;
}

ConvShape conv_shape(int64_t in, int64_t out, int64_t kernel, int64_t stride) {
  return {in, out, kernel, stride, kernel / 2};
}

NetShape net_shape(const ModelSpec& spec) {
  const auto found = families().find(spec.name);
  if (found == families().end()) {
    fail(ErrorKind::kUsage, "model", "expected one of {}, got '{}' at --model",
         fmt::join(model_names(), ", "), spec.name);
  }
  if (spec.num_classes < 1 || spec.image_size < 1) {
    fail(ErrorKind::kUsage, "model", "expected at least one class and one pixel, got {} and {}",
         spec.num_classes, spec.image_size);
  }
  const auto [depths, bottleneck] = found->second;
  const bool imagenet = resolve_stem(spec.stem, spec.image_size) == "imagenet";

  NetShape net{conv_shape(3, kStemChannels, imagenet ? 7 : 3, imagenet ? 2 : 1), imagenet, {}, 0};
  int64_t channels = kStemChannels;
  for (int stage = 0; stage < 4; ++stage) {
    const int64_t width = kStemChannels << stage;
    const int64_t out = bottleneck ? 4 * width : width;
    for (int i = 0; i < depths[stage]; ++i) {
      const int64_t stride = stage > 0 && i == 0 ? 2 : 1;
      BlockShape block{fmt::format("layer{}.{}", stage + 1, i), {}, {}};
      if (bottleneck) {
        block.convs = {conv_shape(channels, width, 1, 1), conv_shape(width, width, 3, stride),
                       conv_shape(width, out, 1, 1)};
      } else {
        block.convs = {conv_shape(channels, width, 3, stride), conv_shape(width, width, 3, 1)};
      }
      if (stride != 1 || channels != out) block.downsample = conv_shape(channels, out, 1, stride);
      net.blocks.push_back(std::move(block));
      channels = out;
    }
  }
  net.features = channels;
  return net;
}

// Each tensor has a stream of its own, so that it does not depend on what was drawn before it.
class Initialiser {
 public:
  explicit Initialiser(uint64_t seed) : seed_(seed) {}

  // Kaiming normal, fan out, gain of ReLU.
  at::Tensor conv(const ConvShape& shape) {
    const double fan_out = static_cast<double>(shape.out * shape.kernel * shape.kernel);
    return at::empty({shape.out, shape.in, shape.kernel, shape.kernel})
        .normal_(0, std::sqrt(2 / fan_out), next());
  }

  at::Tensor uniform(at::IntArrayRef shape, double bound) {
    return at::empty(shape).uniform_(-bound, bound, next());
  }

 private:
  at::Generator next() {
    return at::detail::createCPUGenerator(Rng(seed_, RngUse::kInit, {drawn_++}).next());
  }

  uint64_t seed_;
  uint64_t drawn_ = 0;
};

std::string shape_text(const at::Tensor& tensor) {
  return fmt::format("[{}] {}", fmt::join(tensor.sizes(), ","), at::toString(tensor.scalar_type()));
}

int64_t parse_integer(const std::string& text, int64_t low, int64_t high) {
  int64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || value < low || value > high) {
    throw std::invalid_argument(fmt::format("a whole number from {} to {}", low, high));
  }
  return value;
}

std::array<double, 3> parse_triple(const std::string& text, double low) {
  const auto array = nlohmann::json::parse(text, nullptr, false);
  std::array<double, 3> values{};
  bool good = array.is_array() && array.size() == values.size();
  for (size_t i = 0; good && i < values.size(); ++i) {
    good = array[i].is_number() && array[i].get<double>() >= low;
    if (good) values[i] = array[i].get<double>();
  }
  if (!good) throw std::invalid_argument(fmt::format("three numbers of at least {}", low));
  return values;
}

std::vector<std::string> parse_classes(const std::string& text, int64_t num_classes) {
  const auto array = nlohmann::json::parse(text, nullptr, false);
  const auto is_text = [](const auto& item) { return item.is_string(); };
  if (!array.is_array() || !std::all_of(array.begin(), array.end(), is_text) ||
      (!array.empty() && array.size() != static_cast<size_t>(num_classes))) {
    throw std::invalid_argument(fmt::format("an array of {} names, or an empty one", num_classes));
  }
  return array.get<std::vector<std::string>>();
}

}  // namespace

const std::vector<std::string>& model_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> keys;
    for (const auto& [name, family] : families()) keys.push_back(name);
    return keys;
  }();
  return names;
}

std::string resolve_stem(const std::string& stem, int64_t image_size) {
  if (stem == "auto") return image_size <= 64 ? "cifar" : "imagenet";
  if (stem == "cifar" || stem == "imagenet") return stem;
  fail(ErrorKind::kUsage, "model", "expected auto, cifar or imagenet, got '{}' at --stem", stem);
}

std::map<std::string, std::string> to_metadata(const ModelSpec& spec) {
  using nlohmann::json;
  // A class is named after a folder, which need not be UTF-8; JSON must be.
  const auto text = [](const json& value) {
    return value.dump(-1, ' ', false, json::error_handler_t::replace);
  };
  return {{"model", spec.name},
          {"stem", resolve_stem(spec.stem, spec.image_size)},
          {"num_classes", std::to_string(spec.num_classes)},
          {"image_size", std::to_string(spec.image_size)},
          {"classes", text(spec.classes)},
          {"mean", text(spec.normalisation.mean)},
          {"std", text(spec.normalisation.std)}};
}

ModelSpec spec_from_metadata(const std::map<std::string, std::string>& metadata,
                             const std::string& where) {
  const auto one_of = [](const std::string& text, const std::vector<std::string>& words) {
    if (std::find(words.begin(), words.end(), text) != words.end()) return text;
    throw std::invalid_argument(fmt::format("one of {}", fmt::join(words, ", ")));
  };
  // Hands the text of `key` to `parse`, whose exception says what was expected.
  const auto read = [&](const std::string& key, auto parse) {
    const auto found = metadata.find(key);
    if (found == metadata.end()) {
      fail(ErrorKind::kCheckpoint, "model",
           "expected the key '{}' in the metadata, got none at {}; `skipway import` describes "
           "weights "
           "that come from elsewhere",
           key, where);
    }
    try {
      return parse(found->second);
    } catch (const std::invalid_argument& expected) {
      fail(ErrorKind::kCheckpoint, "model", "expected {} as '{}', got '{}' at {}", expected.what(),
           key, found->second, where);
    }
  };

  ModelSpec spec;
  spec.name = read("model", [&](const auto& text) { return one_of(text, model_names()); });
  spec.stem = read("stem", [&](const auto& text) { return one_of(text, {"cifar", "imagenet"}); });
  spec.num_classes =
      read("num_classes", [](const auto& text) { return parse_integer(text, 1, kMaxClasses); });
  spec.image_size =
      read("image_size", [](const auto& text) { return parse_integer(text, 1, kMaxImageSize); });
  spec.classes =
      read("classes", [&](const auto& text) { return parse_classes(text, spec.num_classes); });
  spec.normalisation.mean = read("mean", [](const auto& text) { return parse_triple(text, 0); });
  // A 256th of the smallest step of an 8-bit image: less would only blow up rounding.
  spec.normalisation.std =
      read("std", [](const auto& text) { return parse_triple(text, 1. / (255 * 256)); });
  return spec;
}

ResNet::ResNet(const ModelSpec& spec, uint64_t seed, at::Device device)
    : spec_(spec), device_(device) {
  const NetShape net = net_shape(spec);
  spec_.stem = resolve_stem(spec.stem, spec.image_size);
  Initialiser init(seed);

  const auto make_unit = [&](const std::string& conv, const std::string& bn,
                             const ConvShape& shape) {
    ConvBnUnit unit;
    unit.weight = add_parameter(conv + ".weight", init.conv(shape));
    unit.stride = shape.stride;
    unit.padding = shape.padding;
    unit.gamma = add_parameter(bn + ".weight", at::ones({shape.out}));
    unit.beta = add_parameter(bn + ".bias", at::zeros({shape.out}));
    unit.running_mean = add_buffer(bn + ".running_mean", at::zeros({shape.out}));
    unit.running_var = add_buffer(bn + ".running_var", at::ones({shape.out}));
    unit.num_batches_tracked = add_buffer(bn + ".num_batches_tracked", at::zeros({}, at::kLong));
    return unit;
  };

  stem_.units = {make_unit("conv1", "bn1", net.stem)};
  for (const BlockShape& shape : net.blocks) {
    ConvChain block;
    block.residual = true;
    for (size_t i = 0; i < shape.convs.size(); ++i) {
      block.units.push_back(make_unit(fmt::format("{}.conv{}", shape.name, i + 1),
                                      fmt::format("{}.bn{}", shape.name, i + 1), shape.convs[i]));
    }
    if (shape.downsample) {
      block.downsample =
          make_unit(shape.name + ".downsample.0", shape.name + ".downsample.1", *shape.downsample);
    }
    blocks_.push_back(std::move(block));
    begins_stage_.push_back(shape.name.ends_with(".0"));
  }
  const double bound = 1 / std::sqrt(static_cast<double>(net.features));
  fc_weight_ = add_parameter("fc.weight", init.uniform({spec.num_classes, net.features}, bound));
  fc_bias_ = add_parameter("fc.bias", init.uniform({spec.num_classes}, bound));
}

at::Tensor ResNet::add_parameter(const std::string& name, at::Tensor values) {
  // Written into the layout, not converted to it: a 1x1 convolution's weights would keep their
  // strides, and its gradient would then have others.
  const auto format =
      values.dim() == 4 ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  at::Tensor parameter = at::empty(values.sizes(), values.options().device(device_), format);
  parameter.copy_(values).set_requires_grad(true);
  parameters_.emplace_back(name, parameter);
  state_.emplace_back(name, parameter);
  return parameter;
}

at::Tensor ResNet::add_buffer(const std::string& name, at::Tensor values) {
  at::Tensor buffer = values.to(device_);
  buffers_.emplace_back(name, buffer);
  state_.emplace_back(name, buffer);
  return buffer;
}

at::Tensor ResNet::apply(ConvChain& chain, const at::Tensor& src, bool training) {
  if (training) {
    for (ConvBnUnit& unit : chain.units) unit.num_batches_tracked.add_(1);
    if (chain.downsample) chain.downsample->num_batches_tracked.add_(1);
  }
  if (kernels_.word() != "torch" && conv_chain_supports(chain, src))
    return conv_chain(chain, src, training, kernels_);

  const auto conv_bn = [&](const ConvBnUnit& unit, const at::Tensor& x) {
    const at::Tensor products = at::conv2d(x, unit.weight, /*bias=*/{}, unit.stride, unit.padding);
    return at::batch_norm(products, unit.gamma, unit.beta, unit.running_mean, unit.running_var,
                          training, unit.momentum, unit.eps, /*cudnn_enabled=*/true);
  };
  at::Tensor residual = chain.residual ? src : at::Tensor();
  if (chain.downsample) residual = conv_bn(*chain.downsample, src);
  at::Tensor x = src;
  for (const ConvBnUnit& unit : chain.units) {
    x = conv_bn(unit, x);
    // In place where backward does not need what is overwritten: BatchNorm keeps its input, ReLU
    // its result, the addition nothing.
    if (&unit == &chain.units.back() && residual.defined()) x.add_(residual);
    x.relu_();
  }
  return x;
}

void ResNet::choose_kernels(int64_t images, int64_t height, int64_t width) {
  std::pair side = skipway::choose_kernels(stem_, images, height, width, kernels_);
  if (spec_.stem == "imagenet") side = {(side.first + 1) / 2, (side.second + 1) / 2};  // max-pool
  for (const ConvChain& block : blocks_)
    side = skipway::choose_kernels(block, images, side.first, side.second, kernels_);
}

at::Tensor ResNet::forward(const at::Tensor& images, bool training) {
  if (training && kernels_.word() == "auto" && images.size(2) != chosen_height_ &&
      conv_chain_supports(stem_, images)) {
    choose_kernels(images.size(0), images.size(2), images.size(3));
    chosen_height_ = images.size(2);
  }
  at::Tensor x = images.contiguous(at::MemoryFormat::ChannelsLast);  // [n,3,h,w]
  x = apply(stem_, x, training);
  if (spec_.stem == "imagenet") x = at::max_pool2d(x, 3, /*stride=*/2, /*padding=*/1);
  for (size_t i = 0; i < blocks_.size(); ++i) {
    if (!training || !shallow_ || begins_stage_[i]) x = apply(blocks_[i], x, training);
  }

  // Outside autocast: a thousandth of the work, and bf16 logits would often be equal.
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const at::Tensor features =
      x.mean({2, 3}, /*keepdim=*/false, fc_weight_.scalar_type());  // [n,features]
  return at::linear(features, fc_weight_, fc_bias_);
}

void ResNet::set_batch_norm_momentum(double momentum) {
  const auto set = [&](ConvChain& chain) {
    for (ConvBnUnit& unit : chain.units) unit.momentum = momentum;
    if (chain.downsample) chain.downsample->momentum = momentum;
  };
  set(stem_);
  std::ranges::for_each(blocks_, set);
}

std::vector<at::Tensor> ResNet::last_gammas() const {
  std::vector<at::Tensor> gammas;
  for (const ConvChain& block : blocks_) gammas.push_back(block.units.back().gamma);
  return gammas;
}

NamedTensors ResNet::state() const { return state_; }

void ResNet::load_state(const NamedTensors& state, const std::string& where) {
  std::map<std::string, at::Tensor> given(state.begin(), state.end());
  std::vector<std::string> faults;
  for (const auto& [name, tensor] : state_) {
    const auto found = given.find(name);
    if (found == given.end()) {
      faults.push_back(fmt::format("missing {}", name));
      continue;
    }
    const at::Tensor& values = found->second;
    if (values.sizes() != tensor.sizes() ||
        values.is_floating_point() != tensor.is_floating_point())
      faults.push_back(fmt::format("{} is {} in the model and {} in the file", name,
                                   shape_text(tensor), shape_text(values)));
  }
  std::set<std::string> known;
  for (const auto& [name, tensor] : state_) known.insert(name);
  for (const auto& [name, tensor] : state) {
    if (!known.contains(name)) faults.push_back(fmt::format("unexpected {}", name));
  }
  if (!faults.empty()) {
    fail(ErrorKind::kCheckpoint, "model",
         "expected the weights of {} ({} stem, {} classes), got others at {}; {} differences: {}",
         spec_.name, spec_.stem, spec_.num_classes, where, faults.size(), fmt::join(faults, "; "));
  }
  const at::NoGradGuard no_grad;
  for (auto& [name, tensor] : state_) tensor.copy_(given.at(name));
}

ModelCost model_cost(const ModelSpec& spec, int64_t bytes_per_value) {
  const NetShape net = net_shape(spec);
  ModelCost cost;
  int64_t values = 3 * spec.image_size * spec.image_size;  // kept, of bytes_per_value each
  int64_t index_bytes = 0;
  // Adds a convolution and its BatchNorm; gives the side of the result.
  const auto add_unit = [&](const ConvShape& conv, int64_t size) {
    const int64_t side = conv.output_size(size);
    cost.parameters += conv.parameters() + 2 * conv.out;
    cost.macs += conv.parameters() * side * side;
    values += conv.out * side * side;
    return side;
  };
  const auto add_relu = [&](int64_t channels, int64_t side) { values += channels * side * side; };

  int64_t size = add_unit(net.stem, spec.image_size);
  add_relu(net.stem.out, size);
  if (net.max_pool) {
    size = conv_shape(0, 0, 3, 2).output_size(size);
    const int64_t pooled = net.stem.out * size * size;
    values += pooled;
    index_bytes += pooled * static_cast<int64_t>(sizeof(int64_t));
  }
  for (const BlockShape& block : net.blocks) {
    int64_t side = size;
    for (const ConvShape& conv : block.convs) {
      side = add_unit(conv, side);
      add_relu(conv.out, side);
    }
    if (block.downsample) add_unit(*block.downsample, size);
    size = side;
  }
  cost.parameters += (net.features + 1) * spec.num_classes;
  cost.macs += net.features * spec.num_classes;
  cost.activation_bytes =
      values * bytes_per_value + index_bytes + net.features * static_cast<int64_t>(sizeof(float));
  return cost;
}

}  // namespace skipway
