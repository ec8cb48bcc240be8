// `export`: a run's weights for other programs, read back before they get their name.
#include <ATen/ATen.h>

#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>

#include "base/error.h"
#include "base/files.h"
#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/terminal.h"
#include "record/safetensors.h"
#include "record/torch_file.h"
#include "train/saved_model.h"

namespace skipway {
namespace {

struct ExportFlags {
  std::string run, to, out;
  bool json = false;
};

void write_weights(const fs::path& path, const Model& model, const std::string& format) {
  if (format == "pth") return write_torch_file(path, model.state());
  std::map<std::string, std::string> metadata = to_metadata(model.spec());
  metadata["format"] = "pt";  // what Python's readers look for
  write_safetensors(path, model.state(), metadata);
}

// Bit by bit: a NaN is equal to none.
bool same_bytes(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.contiguous(), y = b.contiguous();
  return x.sizes() == y.sizes() &&
         std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
}

// What stands in the file is what the model has, in names, order, types, shapes and values.
void check(const fs::path& path, const Model& model, const std::string& format) {
  const NamedTensors read =
      format == "pth" ? read_torch_file(path) : read_safetensors(path).tensors;
  const NamedTensors expected = model.state();
  const bool equal = std::equal(
      read.begin(), read.end(), expected.begin(), expected.end(), [](const auto& a, const auto& b) {
        return a.first == b.first && a.second.scalar_type() == b.second.scalar_type() &&
               same_bytes(a.second, b.second);
      });
  if (!equal)
    fail(ErrorKind::kCheck, "export",
         "expected the weights of {} when read back, got others at {}; is the disk sound?",
         model.spec().name, path.string());
}

int export_weights(const ExportFlags& flags) {
  const RunFolder run = RunFolder::open(flags.run);
  const std::unique_ptr<Model> model = load_saved_model(run);
  const std::string name = model->spec().name + "." + flags.to;
  const fs::path out = flags.out.empty() ? run.path() / name : expand_user(flags.out);
  require_new_file(out, "export", "--out", "give another name, or remove it first");
  const fs::path part = temporary_name(out);
  std::error_code ignored;
  try {
    write_weights(part, *model, flags.to);
    check(part, *model, flags.to);
    rename_to_new(part, out);
  } catch (...) {
    fs::remove(part, ignored);
    throw;
  }
  const std::string sha256 = hash_of_file(HashKind::kSha256, out);
  const auto tensors = static_cast<int64_t>(model->state().size());
  if (flags.json)
    print_json({{"schema", "skipway.export/1"},
                {"ok", true},
                {"file", out.string()},
                {"format", flags.to},
                {"tensors", tensors},
                {"bytes", static_cast<int64_t>(fs::file_size(out))},
                {"sha256", sha256}});
  else
    print_result(fmt::format("{}: {} tensors of {}, {}, read back and equal", out.string(), tensors,
                             model->spec().name,
                             format_bytes(static_cast<double>(fs::file_size(out)))));
  return 0;
}

}  // namespace

void add_export(CLI::App& program, Run& chosen) {
  auto flags = std::make_shared<ExportFlags>();
  CLI::App* command = program.add_subcommand("export", "A run's weights for other programs");
  command->add_option("run", flags->run, "folder of the run")->required();
  command
      ->add_option("--to", flags->to,
                   "safetensors, or pth: a state_dict that torch.load reads with its defaults")
      ->type_name("FORMAT")
      ->check(CLI::IsMember({"safetensors", "pth"}).description(""))
      ->required();
  command->add_option("--out", flags->out, "file to write; without it, RUN/<model>.<format>")
      ->type_name("FILE")
      ->check(not_empty());
  add_json_flag(*command, flags->json);
  add_quiet_flag(*command);
  command->callback([flags, &chosen] { chosen = [flags] { return export_weights(*flags); }; });
}

}  // namespace skipway
