// `predict`: labels for image files. Needs no labels and says nothing about accuracy.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "base/error.h"
#include "base/files.h"
#include "cli/commands.h"
#include "cli/errors.h"
#include "cli/terminal.h"
#include "cli/trained_model.h"
#include "data/archive.h"
#include "data/image.h"
#include "data/image_folder.h"

namespace skipway {
namespace {

struct PredictFlags {
  std::string run;
  std::vector<std::string> files;
  int64_t top = 1;
  bool csv = false;
  ModelFlags model;
};

struct Prediction {
  std::string file;
  std::vector<double> probabilities;  // by class
  std::vector<int64_t> order;         // classes, the likeliest first
};

struct Failure {
  std::string file;
  std::string error;
  ErrorKind kind = ErrorKind::kData;
};

// Its number when the model came without names.
std::string class_name(const ModelSpec& spec, int64_t label) {
  return spec.classes.empty() ? fmt::format("{}", label)
                              : spec.classes.at(static_cast<size_t>(label));
}

// Appends the images below `folder`, at any depth. A folder that cannot be read is put down in
// `failed`.
void find_images(const fs::path& folder, std::vector<std::string>& found,
                 std::vector<Failure>& failed) {
  std::error_code code;
  for (fs::directory_iterator entry(folder, code), end; !code && entry != end;
       entry.increment(code)) {
    std::error_code unreadable;
    if (is_hidden(entry->path().filename())) continue;  // as where images are loaded from
    if (entry->is_directory(unreadable) && entry->is_symlink(unreadable))  // they can be circles
      failed.push_back({entry->path().string(), "a link to a folder; give that folder itself"});
    else if (entry->is_directory(unreadable))
      find_images(entry->path(), found, failed);
    else if (is_image_name(entry->path().string()) &&
             (entry->is_regular_file(unreadable) || unreadable))  // what is wrong, reading will say
      found.push_back(entry->path().string());
  }
  if (code) failed.push_back({folder.string(), code.message(), kind_of_failure(code.value())});
}

// Files as given; folders become the images in them, at any depth, in the order of their names.
std::vector<std::string> list_files(const std::vector<std::string>& given,
                                    std::vector<Failure>& failed) {
  std::vector<std::string> files;
  for (const std::string& name : given) {
    std::error_code unreadable;
    if (!fs::is_directory(name, unreadable)) {  // where that cannot be told, reading will say why
      files.push_back(name);
      continue;
    }
    std::vector<std::string> found;
    const size_t failures = failed.size();
    find_images(name, found, failed);
    std::sort(found.begin(), found.end());
    if (found.empty() && failed.size() == failures)
      failed.push_back({name, "no .jpg, .jpeg or .png file in this folder"});
    files.insert(files.end(), found.begin(), found.end());
  }
  return files;
}

// Shapes: -> uint8 [size,size,3].
at::Tensor read_image(const std::string& file, int64_t size) {
  std::error_code code;
  if (const uintmax_t bytes = fs::file_size(file, code); !code) require_image_bytes(bytes, file);
  Image image = fit_image(decode_image(read_file(file), file), size);
  return at::from_blob(image.rgb.data(), {image.height, image.width, 3}, at::kByte).clone();
}

std::vector<Prediction> predict_batch(TrainedModel& trained, const std::vector<std::string>& files,
                                      const std::vector<at::Tensor>& images) {
  const at::Tensor probabilities =
      predict_logits(*trained.model, at::stack(images), trained.options).to(at::kDouble).softmax(1);
  std::vector<Prediction> predictions;
  for (size_t i = 0; i < files.size(); ++i) {
    const at::Tensor row = probabilities[static_cast<int64_t>(i)].contiguous();
    Prediction p{files[i], {}, {}};
    p.probabilities.assign(row.data_ptr<double>(), row.data_ptr<double>() + row.numel());
    if (!std::isfinite(p.probabilities.front()))
      fail(ErrorKind::kCheckpoint, "predict", "expected finite outputs of the model, got {} for {}",
           p.probabilities.front(), files[i]);
    p.order.resize(p.probabilities.size());
    std::iota(p.order.begin(), p.order.end(), int64_t{0});
    std::stable_sort(p.order.begin(), p.order.end(), [&](int64_t a, int64_t b) {
      return p.probabilities[static_cast<size_t>(a)] > p.probabilities[static_cast<size_t>(b)];
    });
    predictions.push_back(std::move(p));
  }
  return predictions;
}

// A file that is no image is no reason to stop: it is put down in `failed`.
std::vector<Prediction> predict_files(TrainedModel& trained, const std::vector<std::string>& files,
                                      std::vector<Failure>& failed) {
  const int64_t size = trained.model->spec().image_size;
  const auto batch = static_cast<size_t>(trained.options.batch);
  std::vector<Prediction> predictions;
  std::vector<std::string> names;
  std::vector<at::Tensor> images;
  const auto flush = [&] {
    if (images.empty()) return;
    for (Prediction& p : predict_batch(trained, names, images)) predictions.push_back(std::move(p));
    names.clear();
    images.clear();
    show_status(fmt::format("{} of {} images done", predictions.size(), files.size()));
  };
  for (const std::string& file : files) {
    try {
      images.push_back(read_image(file, size));
      names.push_back(file);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kData && error.kind() != ErrorKind::kDisk) throw;
      failed.push_back({file, error.what(), error.kind()});
    }
    if (images.size() == batch) flush();
  }
  flush();
  clear_status();
  return predictions;
}

// Seven digits are what fp32 logits carry.
double rounded(double probability) { return std::round(probability * 1e7) / 1e7; }

double probability_of(const Prediction& p, int64_t label) {
  return rounded(p.probabilities[static_cast<size_t>(label)]);
}

size_t shown(const PredictFlags& flags, const Prediction& p) {
  return std::min(static_cast<size_t>(flags.top), p.order.size());
}

void print_as_json(const PredictFlags& flags, const ModelSpec& spec,
                   const std::vector<Prediction>& predictions, const std::vector<Failure>& failed,
                   const std::optional<Error>& failure) {
  using Json = nlohmann::ordered_json;
  Json classes = Json::array(), predicted = Json::array(), failures = Json::array();
  for (int64_t label = 0; label < spec.num_classes; ++label)
    classes.push_back(class_name(spec, label));
  for (const Prediction& p : predictions) {
    Json probabilities = Json::array();
    for (const double value : p.probabilities) probabilities.push_back(rounded(value));
    Json entry = {{"file", p.file},
                  {"label", class_name(spec, p.order.front())},
                  {"probabilities", std::move(probabilities)}};
    if (flags.top > 1) {
      entry["top"] = Json::array();
      for (size_t i = 0; i < shown(flags, p); ++i)
        entry["top"].push_back({{"label", class_name(spec, p.order[i])},
                                {"probability", probability_of(p, p.order[i])}});
    }
    predicted.push_back(std::move(entry));
  }
  for (const Failure& f : failed) failures.push_back({{"file", f.file}, {"error", f.error}});
  print_json({{"schema", "skipway.predict/1"},
              {"ok", true},
              {"classes", std::move(classes)},
              {"predictions", std::move(predicted)},
              {"failed", std::move(failures)}},
             failure);
}

// RFC 4180.
std::string csv_field(const std::string& text) {
  if (text.find_first_of("\",\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + '"';
}

void print_as_csv(const PredictFlags& flags, const ModelSpec& spec,
                  const std::vector<Prediction>& predictions) {
  const int64_t columns = std::min(flags.top, spec.num_classes);
  std::string header = "file,label,probability";
  for (int64_t i = 2; i <= columns; ++i) header += fmt::format(",label_{},probability_{}", i, i);
  print_result(header);
  for (const Prediction& p : predictions) {
    std::string line = csv_field(p.file);
    for (size_t i = 0; i < shown(flags, p); ++i)
      line += fmt::format(",{},{}", csv_field(class_name(spec, p.order[i])),
                          probability_of(p, p.order[i]));
    print_result(line);
  }
}

void print_as_text(const PredictFlags& flags, const ModelSpec& spec,
                   const std::vector<Prediction>& predictions) {
  for (const Prediction& p : predictions) {
    std::string line = p.file + "  ";
    for (size_t i = 0; i < shown(flags, p); ++i)
      line += fmt::format("{}{} {:.1f} %", i > 0 ? ", " : "", class_name(spec, p.order[i]),
                          100 * probability_of(p, p.order[i]));
    print_result(line);
  }
}

int predict(const PredictFlags& flags) {
  TrainedModel trained = load_trained_model(RunFolder::open(flags.run), flags.model);
  const ModelSpec& spec = trained.model->spec();
  std::vector<Failure> failed;
  const std::vector<std::string> files = list_files(flags.files, failed);
  const std::vector<Prediction> predictions = predict_files(trained, files, failed);
  for (const Failure& f : failed)
    print_line(fmt::format("{} {}: {}", styled("failed:", "red"), f.file, f.error));
  std::optional<Error> failure;
  if (predictions.empty()) {
    const bool by_disk =
        std::ranges::all_of(failed, [](const Failure& f) { return f.kind == ErrorKind::kDisk; });
    failure =
        Error(by_disk ? ErrorKind::kDisk : ErrorKind::kData,
              fmt::format("expected images, got none that could be read, of {}", failed.size()));
  }
  if (flags.model.json)
    print_as_json(flags, spec, predictions, failed, failure);
  else if (flags.csv)
    print_as_csv(flags, spec, predictions);
  else
    print_as_text(flags, spec, predictions);
  return exit_code_of(failure);
}

}  // namespace

void add_predict(CLI::App& program, Run& chosen) {
  auto flags = std::make_shared<PredictFlags>();
  CLI::App* command = program.add_subcommand("predict", "Labels for images");
  command->add_option("run", flags->run, "folder of the run")->required();
  command->add_option("files", flags->files, "JPEG or PNG files, and folders of them")->required();
  command->add_option("--top", flags->top, "the K likeliest classes")
      ->type_name("K")
      ->check(CLI::Range(1, 1 << 20).description(""))
      ->capture_default_str();
  add_model_flags(*command, flags->model);
  command->add_flag("--csv", flags->csv, "comma-separated values on stdout")->excludes("--json");
  command->callback([flags, &chosen] { chosen = [flags] { return predict(*flags); }; });
}

}  // namespace skipway
