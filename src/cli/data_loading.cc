#include "cli/data_loading.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "cli/terminal.h"
#include "model/device.h"
#include "model/threads.h"

namespace skipway {

std::function<void(const FetchProgress&)> fetch_progress_display() {
  if (is_quiet()) return {};
  return [file = std::string(), tenths = int64_t{0}](const FetchProgress& p) mutable {
    std::string line =
        fmt::format("fetching {}: {}", p.file, format_bytes(static_cast<double>(p.bytes_done)));
    if (p.bytes_total > 0) {
      line += fmt::format(" of {}, {} %", format_bytes(static_cast<double>(p.bytes_total)),
                          100 * p.bytes_done / p.bytes_total);
    }
    if (p.bytes_per_s > 0) line += fmt::format(", {}/s", format_bytes(p.bytes_per_s));
    if (p.bytes_per_s > 0 && p.bytes_total > p.bytes_done) {
      const auto missing = static_cast<double>(p.bytes_total - p.bytes_done);
      line += fmt::format(", {} left", format_duration(missing / p.bytes_per_s));
    }
    if (is_interactive()) return show_status(line);
    const int64_t now = p.bytes_total > 0 ? 10 * p.bytes_done / p.bytes_total : 0;
    if (p.file == file && now == tenths) return;
    file = p.file;
    tenths = now;
    print_line(line);
  };
}

Dataset load_data(const std::string& spec, LoadOptions options) {
  options.fetch_progress = fetch_progress_display();
  Dataset dataset = load_dataset(spec, options);
  clear_status();
  return dataset;
}

Dataset load_data(const std::string& spec, const Config& config) {
  LoadOptions options;
  options.image_size = config.image_size;
  options.seed = config.seed;
  return load_data(spec, options);
}

Pretrained read_weights(const std::string& source) {
  FetchOptions fetching;
  fetching.progress = fetch_progress_display();
  Pretrained weights = read_pretrained(source, fetching);
  clear_status();
  return weights;
}

void take_settings_of_weights(Arguments& arguments) {
  Config& config = arguments.config;
  if (config.weights.empty()) return;
  const Pretrained weights = read_weights(config.weights);
  const ModelSpec spec = weights.spec ? *weights.spec : spec_from_shapes(weights, config.model);
  const auto take = [&](const char* key, std::string& field, const std::string& value) {
    field = value;
    arguments.origins[key] = "weights";
  };
  if (!arguments.is_given("model")) take("model", config.model, spec.name);
  if (config.model != spec.name)
    fail(ErrorKind::kCheckpoint, "weights", "expected weights of {}, got those of {} in {}",
         config.model, spec.name, weights.where);
  if (config.stem == "auto") take("stem", config.stem, spec.stem);
  if (!arguments.is_given("attention")) take("attention", config.attention, spec.attention);
  if (!arguments.is_given("mean") && !arguments.is_given("std")) {
    take("mean", config.mean, fmt::format("{}", fmt::join(spec.normalisation.mean, ",")));
    take("std", config.std, fmt::format("{}", fmt::join(spec.normalisation.std, ",")));
  }
  validate(config);
}

Dataset prepare(const Config& config) {
  prepare_process(config.threads);
  resolve_device(config.device);
  return load_data(config.data, config);
}

}  // namespace skipway
