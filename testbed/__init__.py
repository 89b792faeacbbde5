"""What tests and benches share: a Berth of their own, stand-ins for what it talks to, waiting. No part of Berth."""
