// Reads a pickle into a tree of plain values. It knows no classes and calls nothing: a call that
// the pickle asks for stays a node that says so. Not what the values mean.
#pragma once
#include <cstdint>
#include <deque>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace skipway {

struct PickleValue {
  enum class Kind {
    kNone,
    kBool,
    kInt,
    kFloat,
    kText,
    kTuple,
    kList,
    kDict,
    kGlobal,
    kCall,
    kPersistent
  };
  using Pointer = const PickleValue*;

  Kind kind = Kind::kNone;
  int64_t integer = 0;  // kBool, kInt
  double number = 0;    // kFloat
  std::string text;     // kText (text or bytes); kGlobal: "module.name"
  // kTuple, kList: items. kDict: key, value, key, value. kCall: what is called, its arguments, and
  // the state that the object is given, if any. kPersistent: the id.
  std::vector<Pointer> items;
};

/// Owns the values, which may share parts and, in a hostile file, hold themselves: walk them to a
/// fixed depth only.
struct Pickle {
  std::deque<PickleValue> values;
  const PickleValue* root = nullptr;
  size_t bytes = 0;  // up to and with the STOP
};

/// Reads one pickle of protocol 2 to 5 from the beginning of `bytes`. collections.OrderedDict
/// becomes a dict. Errors: kData with `where` for what is cut short, malformed or too large, and
/// for a global that is not in `globals`, by its name.
Pickle read_pickle(std::string_view bytes, const std::set<std::string>& globals,
                   const std::string& where);

}  // namespace skipway
