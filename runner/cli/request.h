// One line of JSON as a request, and an error as one.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runner/cli/lines.h"
#include "runner/cli/session.h"
#include "runner/engine.h"
#include "runner/json.h"

namespace rondo::cli {

// Runs `read`; what a reader of model files calls an invalid model is here an invalid argument.
template <class F>
auto as_argument(F&& read) {
  try {
    return read();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::InvalidModel) throw;
    throw Error(ErrorKind::InvalidArgument, error.what());
  }
}

struct LineRequest {
  Json id;  // as the line has it; the line's number where it has none
  Request request;
  bool logprobs = false;          // they are asked for
  std::vector<std::string> stop;  // texts that end it
};

// The object of a line. Throws Error (InvalidArgument) that says what is wrong with it.
rondo::Json read_line_object(const Line& line);

// The "id" of a line's object, a string or an integer. Throws as read_line_object.
Json read_id(const rondo::Json& object, const Line& line);

// The rest of it; what it does not name is as in `defaults`, the seed with the line's number less 1 added.
// Throws Error with the field's name for anything out of range and for fields that are not understood.
LineRequest read_request(const rondo::Json& object, const Line& line, const Request& defaults,
                         const Text& text);

// {"line": 3, "id": 7, "error": {"kind": "InvalidArgument", "message": ".."}}, on one line. No id: null.
std::string error_line(const Line& line, const Json& id, const Error& error);

}  // namespace rondo::cli
