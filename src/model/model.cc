// What all models share: names, the description as text, and the tensors by name. Not reading or
// writing of files; see record/safetensors.h.
#include "model/model.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/ranges.h>

#include <charconv>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "model/airbench.h"
#include "model/attention.h"
#include "model/resnet.h"

namespace skipway {
namespace {

// Above what any data set has; keeps a damaged file from asking for a huge last layer.
constexpr int64_t kMaxClasses = 1 << 20;

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
    std::vector<std::string> all = resnet_names();
    all.insert(all.end(), airbench_names().begin(), airbench_names().end());
    return all;
  }();
  return names;
}

std::unique_ptr<Model> make_model(const ModelSpec& spec, uint64_t seed, at::Device device) {
  if (is_airbench(spec.name)) return std::make_unique<Airbench>(spec, seed, device);
  return std::make_unique<ResNet>(spec, seed, device);
}

ModelCost model_cost(const ModelSpec& spec, int64_t bytes_per_value) {
  if (is_airbench(spec.name)) return airbench_cost(spec, bytes_per_value);
  return resnet_cost(spec, bytes_per_value);
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
          {"attention", spec.attention},
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
  if (metadata.contains("attention")) {  // runs of before there was any have none
    spec.attention =
        read("attention", [&](const auto& text) { return one_of(text, attention_names()); });
  }
  spec.num_classes =
      read("num_classes", [](const auto& text) { return parse_integer(text, 1, kMaxClasses); });
  spec.image_size =
      read("image_size", [](const auto& text) { return parse_integer(text, 1, kMaxImageSize); });
  spec.classes =
      read("classes", [&](const auto& text) { return parse_classes(text, spec.num_classes); });
  spec.normalisation.mean = read("mean", [](const auto& text) { return parse_triple(text, 0); });
  spec.normalisation.std =
      read("std", [](const auto& text) { return parse_triple(text, kLeastStd); });
  return spec;
}

at::Tensor Model::add_parameter(const std::string& name, at::Tensor values) {
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

at::Tensor Model::add_buffer(const std::string& name, at::Tensor values) {
  at::Tensor buffer = values.to(device_);
  state_.emplace_back(name, buffer);
  return buffer;
}

BatchNorm Model::add_batch_norm(const std::string& name, int64_t channels, bool trains_weight) {
  const at::Tensor ones = at::ones({channels});
  BatchNorm norm;
  norm.weight =
      trains_weight ? add_parameter(name + ".weight", ones) : add_buffer(name + ".weight", ones);
  norm.bias = add_parameter(name + ".bias", at::zeros({channels}));
  norm.running_mean = add_buffer(name + ".running_mean", at::zeros({channels}));
  norm.running_var = add_buffer(name + ".running_var", at::ones({channels}));
  norm.num_batches_tracked = add_buffer(name + ".num_batches_tracked", at::zeros({}, at::kLong));
  return norm;
}

void Model::load_state(const NamedTensors& state, const std::string& where) {
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
  std::vector<std::string> unexpected;
  for (const auto& [name, tensor] : state)
    if (!known.contains(name)) unexpected.push_back(fmt::format("unexpected {}", name));
  if (const size_t count = faults.size() + unexpected.size(); count > 0) {
    // Both kinds are seen: together they show a prefix, say.
    constexpr size_t kShown = 10;
    const size_t few = std::min(unexpected.size(), kShown - std::min(kShown / 2, faults.size()));
    faults.resize(std::min(faults.size(), kShown - few));
    faults.insert(faults.end(), unexpected.begin(),
                  unexpected.begin() + static_cast<std::ptrdiff_t>(few));
    fail(ErrorKind::kCheckpoint, "model",
         "expected the weights of {} ({} stem, attention {}, {} classes), got others at {}; {} "
         "differences: {}{}; see whether --model and --stem are what the file holds",
         spec_.name, spec_.stem, spec_.attention, spec_.num_classes, where, count,
         fmt::join(faults, "; "),
         faults.size() < count ? fmt::format("; and {} more", count - faults.size()) : "");
  }
  const at::NoGradGuard no_grad;
  for (auto& [name, tensor] : state_) tensor.copy_(given.at(name));
}

}  // namespace skipway
