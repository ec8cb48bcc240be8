// Weights from elsewhere under the names that the models have. Knows no layers but the first and
// the last.
#include "train/pretrained.h"

#include <ATen/ops/isfinite.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <fstream>
#include <regex>
#include <set>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "data/known.h"
#include "model/airbench.h"
#include "record/sealed_file.h"
#include "record/torch_file.h"
#include "train/saved_model.h"

namespace skipway {
namespace {

constexpr std::string_view kPublished = "torchvision:";
constexpr std::string_view kHead = "fc.";
// What training programs put around the weights, and before their names.
constexpr std::string_view kWrappers[] = {"state_dict.", "model_state_dict.", "model."};
constexpr std::string_view kPrefixes[] = {"module.", "_orig_mod."};
// What the names of each attention's parameters have; see model/attention.cc.
constexpr std::pair<std::string_view, const char*> kAttentionNames[] = {
    {".se.fc1.", "se"}, {".se.conv.", "eca"}, {".se.channel.", "cbam"}};

// As torchvision's models take them; CIFAR-10's as most training programs have them.
constexpr Normalisation kImageNetNormalisation{{0.485, 0.456, 0.406}, {0.229, 0.224, 0.225}};
constexpr Normalisation kCifarNormalisation{{0.4914, 0.4822, 0.4465}, {0.2023, 0.1994, 0.2010}};

const at::Tensor* find(const NamedTensors& tensors, const std::string& name) {
  const auto found = std::ranges::find(tensors, name, [](const auto& pair) { return pair.first; });
  return found == tensors.end() ? nullptr : &found->second;
}

// The weights alone, under their plain names. What is around them may be there more than once, in
// any order.
NamedTensors unwrapped(NamedTensors tensors) {
  constexpr int kMost = 8;  // of them around each other; more are nobody's
  bool changed = true;
  for (int i = 0; i < kMost && std::exchange(changed, false); ++i) {
    for (const std::string_view wrapper : kWrappers) {
      const auto is_outside = [&](const auto& pair) { return !pair.first.starts_with(wrapper); };
      if (std::ranges::all_of(tensors, is_outside)) continue;
      std::erase_if(tensors, is_outside);  // an optimizer's, a second average's
      for (auto& [name, tensor] : tensors) name.erase(0, wrapper.size());
      changed = true;
      break;
    }
    for (const std::string_view prefix : kPrefixes)
      for (auto& [name, tensor] : tensors)
        if (name.starts_with(prefix)) name.erase(0, prefix.size()), changed = true;
  }
  return tensors;
}

void require_each_once(const NamedTensors& tensors, const std::string& where) {
  std::set<std::string> names;
  for (const auto& [name, tensor] : tensors)
    if (!names.insert(name).second)
      fail(ErrorKind::kCheckpoint, "weights",
           "expected each weight once, got {} twice in {}, with one prefix and another", name,
           where);
}

// PyTorch counts the batches since 0.4.1 only, and nothing here reads the count.
void add_missing_counts(NamedTensors& tensors) {
  constexpr std::string_view kMean = "running_mean";
  std::set<std::string> names;
  for (const auto& [name, tensor] : tensors) names.insert(name);
  for (const std::string& name : names) {
    if (!name.ends_with(kMean)) continue;
    const std::string count = name.substr(0, name.size() - kMean.size()) + "num_batches_tracked";
    if (!names.contains(count)) tensors.emplace_back(count, at::zeros({}, at::kLong));
  }
}

Pretrained read_run(const std::string& source) {
  const RunFolder run = RunFolder::open(expand_user(source));
  const std::unique_ptr<Model> model = load_saved_model(run);
  return {model->state(), model->spec(), run.path().string()};
}

// By what it holds, whatever its name; where that is damaged, by its name. A file of safetensors
// begins with eight bytes and a JSON object, one of torch.save as a zip or a pickle does.
bool is_safetensors(const fs::path& path) {
  std::string begin(9, '\0');
  std::ifstream file(path, std::ios::binary);  // where it cannot be read, its reader says why
  begin.resize(static_cast<size_t>(file.read(begin.data(), std::ssize(begin)).gcount()));
  if (begin.ends_with('{') && begin.size() == 9) return true;
  return path.extension() == ".safetensors" && !begin.starts_with("PK") &&
         !begin.starts_with("\x80\x02");
}

Pretrained read_weights_file(const fs::path& path) {
  if (!is_safetensors(path)) return {read_torch_file(path), {}, path.string()};
  SafetensorsFile file;
  try {
    file = read_sealed(path, /*required=*/false);
  } catch (const Error& error) {  // a file is damaged data until it is known to be weights
    if (error.kind() == ErrorKind::kDisk) throw;
    throw Error(ErrorKind::kData, error.what());
  }
  std::optional<ModelSpec> spec;
  // Others may have a "model" among their metadata too.
  if (file.metadata.contains("model") && file.metadata.contains("image_size"))
    spec = spec_from_metadata(file.metadata, path.string());
  return {std::move(file.tensors), std::move(spec), path.string()};
}

// In `folder` of data_directory(), unless it is there.
Pretrained read_fetched(const KnownFile& file, const char* folder, const FetchOptions& options) {
  const fs::path path = data_directory() / folder / file.name;
  fetch_file(file, path, options);
  return read_weights_file(path);
}

Pretrained read_published(const std::string& name, const FetchOptions& options) {
  const KnownWeights& weights = known_weights(name);
  Pretrained read = read_fetched(weights.file, "torchvision", options);
  read.spec = spec_from_shapes(read, weights.model);
  return read;
}

// A file "name-0123abcd.pth", whose name ends in the first digits of its SHA-256: as torch.hub has
// them, and all of torchvision's and many of timm's.
KnownFile file_at(const std::string& url) {
  const std::string path = url.substr(0, url.find_first_of("?#"));
  const std::string name = path.substr(path.rfind('/') + 1);
  static const std::regex kDigits("-([0-9a-f]{8,64})\\.");
  std::smatch found;
  if (!std::regex_search(name, found, kDigits))
    fail(ErrorKind::kUsage, "weights",
         "expected an address whose file has the first eight or more digits of its SHA-256 in its "
         "name, as resnet18-f37072fd.pth, got {}; rename the file, or fetch it by hand and give "
         "its path",
         url);
  return {name, {url}, HashKind::kSha256, found.str(1)};
}

}  // namespace

bool is_fetched(std::string_view source) {
  return source.starts_with(kPublished) || is_address(source);
}

Pretrained read_pretrained(const std::string& source, const FetchOptions& options) {
  const fs::path path = expand_user(source);
  Pretrained read = source.starts_with(kPublished)
                        ? read_published(source.substr(kPublished.size()), options)
                    : is_address(source)     ? read_fetched(file_at(source), "weights", options)
                    : fs::is_directory(path) ? read_run(source)
                                             : read_weights_file(path);
  read.tensors = unwrapped(std::move(read.tensors));
  require_each_once(read.tensors, read.where);
  add_missing_counts(read.tensors);
  if (read.tensors.empty())
    fail(ErrorKind::kCheckpoint, "weights", "expected weights by name, got no tensors in {}",
         read.where);
  require_finite(read.tensors, read.where);
  return read;
}

ModelSpec spec_from_shapes(const Pretrained& weights, const std::string& model) {
  ModelSpec spec;
  spec.name = model;
  const at::Tensor* stem = find(weights.tensors, "conv1.weight");
  const bool cifar =
      is_airbench(model) || (stem != nullptr && stem->dim() == 4 && stem->size(3) == 3);
  spec.stem = cifar ? "cifar" : "imagenet";
  spec.image_size = cifar ? 32 : 224;
  spec.normalisation = cifar ? kCifarNormalisation : kImageNetNormalisation;
  for (const auto& [name, tensor] : weights.tensors)
    for (const auto& [part, kind] : kAttentionNames)
      if (name.find(part) != std::string::npos) spec.attention = kind;
  const at::Tensor* head = find(weights.tensors, is_airbench(model) ? "7.weight" : "fc.weight");
  spec.num_classes = head != nullptr && head->dim() == 2 ? head->size(0) : cifar ? 10 : 1000;
  return spec;
}

void load_pretrained(Model& model, const Pretrained& weights) {
  const ModelSpec& spec = model.spec();
  const std::vector<std::string> their_names =
      weights.spec ? weights.spec->classes : std::vector<std::string>();
  const ModelSpec theirs = spec_from_shapes(weights, spec.name);
  const int64_t their_count = theirs.num_classes;
  const int64_t their_size = weights.spec ? weights.spec->image_size : theirs.image_size;
  const bool no_head = find(weights.tensors, "fc.weight") == nullptr;
  const bool new_head = no_head || their_count != spec.num_classes ||
                        (!their_names.empty() && their_names != spec.classes);
  NamedTensors tensors = weights.tensors;
  if (new_head) {
    std::erase_if(tensors, [](const auto& pair) { return pair.first.starts_with(kHead); });
    for (const auto& pair : model.state())
      if (pair.first.starts_with(kHead)) tensors.push_back(pair);
  }
  load_finite(model, tensors, weights.where);
  log_info("weights: {}; {}", weights.where,
           no_head ? fmt::format("they have no head; a new one, for {} classes", spec.num_classes)
           : new_head ? fmt::format("the head is new, for {} classes in place of {} others",
                                    spec.num_classes, their_count)
                      : "the head with them");
  // The ImageNet stem makes an image four times smaller; CIFAR's leaves a large one as it is, and
  // every layer behind it with all of its pixels.
  const bool too_small = spec.stem == "imagenet" && spec.image_size < their_size;
  const bool too_large = spec.stem == "cifar" && spec.image_size > their_size &&
                         resolve_stem("auto", spec.image_size) != "cifar";
  if (too_small || too_large)
    log_warning("images of {} pixels, where the weights are for {}; --image-size {} {} them",
                spec.image_size, their_size, their_size, too_small ? "enlarges" : "reduces");
}

}  // namespace skipway
